"""Webhooks on their way out: sealed secrets, addresses that are not for us to reach, and the requests themselves."""
