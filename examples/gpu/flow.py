from zflow import Flow

with Flow().add(uses="jinaai://jina-ai/CLIPEncoder", replicas=5, install_requirements=True) as f:
    f.block()
