"""Webhooks: subscriptions of other services to events, and the deliveries that tell them."""
