"""The page on which people look at masks: what it asks for, and who may ask."""
