"""What every room stands on: errors, arrays, files, progress, worker processes, geometry."""
