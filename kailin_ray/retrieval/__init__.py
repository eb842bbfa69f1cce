"""The retrieval agent: encoder, dense index, passage store, and the actor that answers questions with passages."""
