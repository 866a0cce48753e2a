# Ends with exit code 3. What it wrote to stdout by then is no result; the end of stderr reaches the caller.
echo "half a result"
echo "no luck today" >&2
exit 3
