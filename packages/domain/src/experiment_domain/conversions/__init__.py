"""How raw values become physical ones: rules, and the versioned profiles that carry them."""
