"""One file for each family of TFLite's operators; importing it registers them (see `registry`)."""
