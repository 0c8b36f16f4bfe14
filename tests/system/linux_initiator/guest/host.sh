#!/bin/busybox sh
# host WORD...: have the harness on the host do what its hook does with these words; print what it
# says, and end with its status.  The answer's last line is that status.
answer=$(mktemp)
{ printf '%s\n' "$HOOK_TOKEN" "$@"; printf '\004\n'; } | busybox nc 127.0.0.1 "$HOOK_PORT" >$answer
status=$(tail -n 1 $answer)
sed '$d' $answer
rm -f $answer
exit ${status:-125}
