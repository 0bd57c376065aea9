"""From composed YAML to Python objects: resolve, check against the signatures, build."""

from facenet.config.building import build as build
from facenet.config.building import told_at as told_at
from facenet.config.checking import RUNTIME as RUNTIME
from facenet.config.checking import SPECIAL as SPECIAL
from facenet.config.checking import check as check
from facenet.config.checking import named_in as named_in
from facenet.config.checking import problem_list as problem_list
from facenet.config.checking import problems_of as problems_of
from facenet.config.checking import public_name as public_name
from facenet.config.checking import set_by as set_by
from facenet.config.checking import unfit_value as unfit_value
from facenet.config.checking import walk as walk
from facenet.config.recorded import adopt_pending as adopt_pending
from facenet.config.recorded import fingerprint as fingerprint
from facenet.config.recorded import of_job as of_job
from facenet.config.recorded import read as read
from facenet.config.recorded import to_yaml as to_yaml
from facenet.config.recorded import write as write
from facenet.config.resolving import chosen as chosen
from facenet.config.resolving import resolve as resolve
