"""Widgets of the chapters, one file a chapter; each is a `Panel` over a plain drawing function."""
