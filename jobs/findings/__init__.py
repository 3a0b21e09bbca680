"""What was found, as the report and the page show it: how sure it is, and what the shop did."""
