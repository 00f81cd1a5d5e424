"$PROGRAM" rollback -i inventory ws01 --through FIRST "$@"
