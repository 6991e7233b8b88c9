"""One row of any accepted shape -> what it holds, or why it cannot be used."""
