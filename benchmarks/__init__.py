"""The figures of the ORM, measured beside a peer and beside hand-written code in the same run."""
