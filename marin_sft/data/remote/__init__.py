"""Files from the Hub and from URLs. Broken transfers are resumed, finished ones are checked."""
