from .embedder import Embedder as Embedder
from .embedder import FaceNet as FaceNet
from .inception_resnet_v1 import InceptionResNetV1 as InceptionResNetV1
from .mobilefacenet import MobileFaceNet as MobileFaceNet
from .mobilenet_v1 import MobileNetV1 as MobileNetV1
