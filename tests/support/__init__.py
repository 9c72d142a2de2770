from tests.support.other_schema import use_other_schema

use_other_schema()
