"""What we ask of the outside: one small Protocol a file; its docstring is the contract."""
