"$PROGRAM" rollback -i inventory ws01 --run FIRST --yes
