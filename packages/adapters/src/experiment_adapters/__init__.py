"""The adapters that implement the domain's ports, and what wires them by the settings."""
