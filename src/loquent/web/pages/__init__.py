"""The pages: server-rendered HTML at /, the API's documentation, and the files that they load; nothing from elsewhere."""
