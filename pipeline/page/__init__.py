"""The report's page: what is counted for it, drawn, shown in small, and put together as one HTML file."""
