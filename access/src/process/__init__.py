"""What a process that serves needs, whatever it serves: settings' names, a store's address, log lines that never block,
cheap metrics, assumptions of libraries' private parts, and less memory. Both services use it."""
