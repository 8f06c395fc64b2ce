"""What a constrained answer says: instances of JSON schemas, texts that match expressions."""
