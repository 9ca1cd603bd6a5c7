"""A thin file per engine."""
