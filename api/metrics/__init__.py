"""What Prometheus is told: names, levels as they are now, and counts since this process began."""
