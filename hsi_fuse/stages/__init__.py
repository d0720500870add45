"""The methods, one a file. `table` names them; nothing is imported here, as some are made of others."""
