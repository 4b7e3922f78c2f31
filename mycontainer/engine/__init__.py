"""What a real engine adds to the core: completeness. It calls the core and never writes it again."""
