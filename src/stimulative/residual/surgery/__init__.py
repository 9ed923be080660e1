"""Operations on an unraveled network: removing blocks for good, freezing its stem, scaling its branches."""
