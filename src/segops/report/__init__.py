"""Pages and pictures for people: HTML that stands alone, overlays, plots."""
