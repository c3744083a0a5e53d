"""The ModernBERT backbone that both encoders stand on."""
