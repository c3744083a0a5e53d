"""Encoders: text in, single vectors or one vector a token out, as a stream."""
