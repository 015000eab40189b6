"""What runs a model in another form than torch's; it travels with exports, not with bundles."""
