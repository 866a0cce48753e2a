# Sleeps as many seconds as the parameter says, and says so.
read -r seconds
sleep "$seconds"
echo "slept $seconds s"
