"""What people look at: terminal tables, plots, the HTML page. Reads run directories and summaries only."""
