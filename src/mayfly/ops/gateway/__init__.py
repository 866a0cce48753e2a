"""The gateway: APISIX's files, written from the settings, checked, and put into force. Rows: A1, D3."""
