"""What must hold of the gateway's two files, one noun a module; `gateway.check` asks all of it. Rows: A1, D3."""
