"""The pages: HTML at /, the API's documentation, and the files that these load; nothing comes from elsewhere."""
