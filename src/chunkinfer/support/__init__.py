"""What every wing may use, and what knows none of them: devices, timing, payloads, pictures, tables in HTML."""
