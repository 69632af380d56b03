"""What queries are made of: what is asked, rows from the server, pages, changes by query, explanations."""
