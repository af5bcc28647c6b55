"""Who carries a bearer token: JWTs of an identity provider, sensors' tokens, and tokens for local use."""
