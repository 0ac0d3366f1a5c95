"""The masks of a folder before a person: in which order, on which page, and what is told of them afterwards."""
