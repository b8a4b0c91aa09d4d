"""What lies in a sweep directory: records, whole files, and the doctor who reads them."""
