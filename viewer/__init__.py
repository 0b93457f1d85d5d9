"""What people look at: HTML reports now, the browser viewer later."""
