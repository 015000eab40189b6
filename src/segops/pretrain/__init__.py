"""`segops pretrain`: an encoder learns from images without masks."""
