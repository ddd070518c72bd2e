"""What the API answers, as models: for `/openapi.json`, and for tests to hold the answers against.

Rows go out as they are read, without a detour through these: field names are the columns' names.
"""
