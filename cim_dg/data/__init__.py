"""The data sets that need no download: digits, Spirograph, VLCSMini."""
