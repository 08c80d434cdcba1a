"""python -m modpdb"""

from modpdb.cli import main

if __name__ == "__main__":
    main()
