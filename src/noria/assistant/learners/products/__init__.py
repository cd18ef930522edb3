"""The learner of the order of products, and what people chose of the lists that they were shown."""
