# Adds up `NAME AMOUNT` lines of stdin: on stdout a line for each name, the largest total first.
totals=$(awk '
    function fail(words) { print words >"/dev/stderr"; failed = 2; exit failed }

    NF != 2 || $2 !~ /^-?[0-9]+(\.[0-9]+)?$/ { fail("line " NR " is not NAME AMOUNT: " $0) }
    { total[$1] += $2 }

    END {
        if (failed) exit failed
        if (!NR) fail("expected lines of NAME AMOUNT, and got none")
        for (name in total) printf "%s %.2f\n", name, total[name]
        print NR " lines" >"/dev/stderr" # a log
    }') || exit # with the status of awk
echo "$totals" | sort -k 2,2nr # the result
