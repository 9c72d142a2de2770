"""Values, exceptions and signatures as JSON, and ids."""
