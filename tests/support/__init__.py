"""What several rooms of the tests share: a tiny dataset, commands in and out of this process, stores, waiting."""
