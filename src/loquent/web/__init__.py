"""HTTP: surfaces that each read the wire, call one service method and write the wire."""
