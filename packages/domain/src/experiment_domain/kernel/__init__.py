"""What every noun of the domain is made of: ids, clock, errors, lifecycle, events, access."""
